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
        ("3 of 5 seeds", "how many seeds show the regime that most of them show; of several as frequent the largest"),
        ("target 4/5", "how many seeds reached the target: another question than the regime"),
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
    ),
    "Throughput and scaling": (
        ("throughput", "samples of the whole job per second on the training clock, after warm-up"),
        (
            "speed-up",
            "throughput over that of the base, which is named: single with the same global batch (strong scaling) or "
            "the same batch of each rank (weak), else the fewest devices of the same strategy; always of one engine",
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
        ("who waits for whom", "a few steps from the middle of a run, all strategies on one clock"),
        ("bubble", "share of a step in which a stage of a pipeline idles; in theory with equal stages and free links"),
        ("staleness", "updates of the weights between reading them for a gradient and applying that gradient"),
    ),
    "Memory": (
        (
            "counted DRAM",
            "bytes of tensors on the device that holds most, counted tensor by tensor at their peak: parameters, "
            "gradients, optimizer, activations, buffers and copies; what an allocator reserves is not in it",
        ),
        ("capacity", "what a device has to use: its memory without what the system keeps, or the scenario's limit"),
    ),
    "Predicted beside measured": (
        ("predicted", "median over simulated seeds; the band is two standard deviations of its stated uncertainty"),
        ("measured", "median over real seeds, from the least to the most, or what the scenario says was observed"),
    ),
}
"""By the heading under which the figures stand: terms with their meaning."""
