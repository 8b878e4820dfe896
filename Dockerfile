# Two targets, `cpu` and `cuda`. Data sets lie in /data, scenarios of your own and results in /workspace; mount both.
#
#   docker build --target cuda --tag harness:cuda .
#   docker build --target cpu --build-arg TORCH_INDEX=URL --tag harness:cpu .
#   docker run --rm --init --shm-size 1g --volume harness-data:/data --volume "$PWD:/workspace" harness:cpu run lenet
#
# URL is the index that pytorch.org names for builds without CUDA; without it torch comes with CUDA, and is 3 GB larger.
# CI does not build these images, it only checks this file: tests/test_containers.py.

FROM python:3.11.14-slim-bookworm AS base
# torch.compile translates its kernels with g++; Ray's operator for Kubernetes asks by wget whether a node lives.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ wget \
    && rm -rf /var/lib/apt/lists/*
# Results are private to their user: a folder that is mounted there has to be this user's.
RUN useradd --create-home --uid 1000 harness \
    && mkdir /data /workspace \
    && chown harness /data /workspace
ENV HARNESS_DATA=/data \
    OMP_NUM_THREADS=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# What changes daily is built apart, so that the large layers below it stay.
FROM base AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY harness harness
COPY plugins plugins
COPY scenarios scenarios
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM base AS requirements
# Extras of this package, such as ray,mlflow, and further requirements of pip's, such as ray[default].
ARG EXTRAS=""
ARG PACKAGES=""
COPY pyproject.toml ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = filter(None, '$EXTRAS'.split(',')); \
print(*project['dependencies'], *(each for name in extras for each in project['optional-dependencies'][name]), \
*'$PACKAGES'.split(), sep='\n')" \
    > requirements.txt

FROM base AS cpu
ARG TORCH_INDEX=""
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint constraints.txt torch
COPY --from=requirements /src/requirements.txt ./
RUN pip install --constraint constraints.txt --requirement requirements.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
USER 1000:1000
WORKDIR /workspace
VOLUME ["/data", "/workspace"]
ENTRYPOINT ["harness"]
CMD ["run"]

# CUDA's libraries come with torch. The host brings the driver, by the NVIDIA container toolkit: docker run --gpus all
FROM base AS cuda
COPY constraints.txt ./
RUN pip install --constraint constraints.txt torch
COPY --from=requirements /src/requirements.txt ./
RUN pip install --constraint constraints.txt --requirement requirements.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
# utility is NVML: without it nothing is known of clocks, power and memory.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /workspace
VOLUME ["/data", "/workspace"]
ENTRYPOINT ["harness"]
CMD ["run"]
