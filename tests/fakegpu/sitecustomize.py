"""Imported by every Python that has this folder on its path: puts the fake GPU in place where it is asked for."""

import os

if os.environ.get("FAKE_GPU_LOG"):
    import fake_gpu

    fake_gpu.install()
