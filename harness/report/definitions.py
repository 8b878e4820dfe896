"""What every figure shows, one click away from it."""

from __future__ import annotations

DEFINITIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "Learning rates": (
        (
            "regime",
            "what the loss of every step says of the learning rate: stuck (nothing learnt, the weights at rest) and "
            "slow: too small; good; oscillating (the loss rises again by a fifth of where it began, or above it), "
            "collapsed (nothing learnt, the weights far away) and diverged (not a number, or far above the beginning): "
            "too large",
        ),
        (
            "all seeds, 3 of 5 seeds",
            "how many seeds show the regime that most of them show; of several as frequent the largest",
        ),
        ("reached 4/5", "how many seeds reached the target: another question than the regime"),
        ("workers", "holders of a copy of the training state of their own; devices where there is one copy"),
    ),
    "Convergence": (
        (
            "time to the target",
            "training time until the first of two consecutive evaluations at or above the target, on the validation "
            "split; setting up and evaluating left out",
        ),
        (
            "interval",
            "between order statistics of the seeds; it covers the median with the probability that is given, whatever "
            "the distribution. None below five seeds",
        ),
        (
            "expected",
            "time until the target where a run that fails is followed by another with another seed: all time spent "
            "over the runs that got there",
        ),
        ("median curve", "median over seeds at each place, as far as all of them ran"),
        ("training loss", "mean over the steps since the evaluation before"),
        (
            "overfitted, underfitted",
            "overfitted: the validation loss has risen by a tenth from its lowest while the training loss went on "
            "falling; underfitted: more than half of the initial loss is left in training",
        ),
    ),
    "Throughput and scaling": (
        ("throughput", "samples of the whole job per second on the training clock, after warm-up"),
        (
            "speed-up",
            "throughput over that of the base, which is named: single with the same global batch (strong scaling) or "
            "the same batch of each rank (weak), else the fewest devices of the same strategy; always of one engine",
        ),
        (
            "serial share",
            "share of the work that more devices do not speed up, if the rest were divided among them without loss: "
            "the fit of Amdahl's law to a line; its inverse is the most that any number of devices could gain",
        ),
        ("efficiency", "speed-up over how many times as many devices there are, in percent behind each speed-up"),
        (
            "steps against batch",
            "updates to the target at the best rate of each global batch; perfect: twice the batch takes half as many; "
            "maximal: no fewer; between them diminishing. The critical batch is where a step costs twice the samples "
            "that training could do with",
        ),
        (
            "noise scale",
            "global batch at which the noise of a step's gradient is as large as the gradient: variance of one "
            "sample's gradient over the squared length of the true one, before clipping, momentum and weight decay. "
            "Well below it twice the batch takes half as many steps, well above hardly fewer. Known where a server "
            "averages gradients computed one by one; an estimate is of a window of updates, its interval (Fieller, "
            "95 %) of how they differ. A window whose gradient cannot be told from its noise is a gap; over the whole "
            "run updates with a large gradient count for more",
        ),
        ("broken line", "two standard deviations of a prediction's own uncertainty to either side"),
    ),
    "Where the time went": (
        (
            "parts of a step",
            "means over devices, without overlap: computing; exposed communication, which is transfer that nothing "
            "hides; waiting for a later worker, a server or a stage; input; and the rest of the loop. Of asynchronous "
            "workers: seconds between two updates of the weights. Shown is the cell whose step has median length",
        ),
        (
            "how step times spread",
            "seconds from one step of the first worker to its next, after warm-up, of the first run of each point; "
            "outliers lie more than three quartile distances above the upper quartile",
        ),
        ("who waits for whom", "a few steps from the middle of a run, all strategies on one clock"),
        ("bubble", "share of a step in which a stage of a pipeline idles; in theory with equal stages and free links"),
        ("staleness", "updates of the weights between reading them for a gradient and applying that gradient"),
    ),
    "Devices over time": (
        (
            "CPU cores busy",
            "CPU time of the cell's processes between two readings, as the system counts it, for each device; a "
            "process that waits by asking again and again is busy too",
        ),
        (
            "GPU utilisation as NVML reports it",
            "share of the driver's last sampling period in which at least one kernel ran: neither how much of the GPU "
            "it used nor whether it computed",
        ),
        (
            "share of time spent computing",
            "seconds of computing over seconds of training in a window of several steps, mean over devices; within a "
            "step it is spread evenly",
        ),
        ("which run", "the run with the median result of each strategy at its best rate and batch"),
    ),
    "Memory": (
        (
            "counted DRAM",
            "bytes of tensors on the device that holds most, counted tensor by tensor at their peak: parameters, "
            "gradients, optimizer, activations, buffers and copies; what an allocator reserves is not in it",
        ),
        ("context", "what the driver keeps for itself on a GPU; no tensor and no allocator is in it"),
        (
            "allocated, reserved",
            "bytes that CUDA's allocator has handed out and bytes that it keeps from the device, each at its peak; "
            "simulated: its rules replayed over the tensors of a step",
        ),
        ("NVML", "what the driver counts on the device: this cell's processes where it tells them apart, else all"),
        ("capacity", "what a device has to use: its memory without what the system keeps, or the scenario's limit"),
    ),
    "Predicted beside measured": (
        ("predicted", "median over simulated seeds; the band is two standard deviations of its stated uncertainty"),
        ("measured", "median over real seeds, from the least to the most, or what the scenario says was observed"),
    ),
}
"""By the heading under which the figures stand: terms with their meaning."""
