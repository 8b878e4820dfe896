"""What every figure shows, one click away from it."""

from __future__ import annotations

DEFINITIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "Learning rates": (
        (
            "regime",
            "What the training loss says about the learning rate. Too small: stuck (nothing learned, weights hardly "
            "move). Slow (little learned, or still learning at the end): more steps or a larger rate may help, "
            "and one run does not tell which. Good. Too large: oscillating (the loss rises again by a fifth of "
            "its starting value, or above that value), collapsed (nothing learned, weights far from their start) or "
            "diverged (not a number, or far above its starting value).",
        ),
        (
            "all seeds, 3 of 5 seeds",
            "How many seeds show the regime in the field. The field names the most frequent one; of equally frequent "
            "ones it names the one with the larger rate.",
        ),
        (
            "reached 4/5",
            "How many seeds reached the target. Where at least half did, the rate is called neither too small nor too "
            "large, whatever the regime.",
        ),
        ("workers", "Processes that hold their own copy of the training state. Devices, if there is only one copy."),
    ),
    "Convergence": (
        (
            "time to the target",
            "Training time until the target is met on the validation split: samples to the target times the time of "
            "a sample. Setup and evaluation do not count. Strategies that train the same model share their samples to "
            "the target, so they differ by the time of a sample only.",
        ),
        (
            "samples to the target",
            "Where a rising curve through the evaluations meets the target (pool adjacent violators, on the logarithm "
            "of samples), provided two evaluations in a row met it. Results without that reading use the first of the "
            "two.",
        ),
        ("mean", "Geometric mean over seeds: a factor up and the same factor down cancel."),
        (
            "interval",
            "Interval for the geometric mean, from how seeds and runs differ (Student's t on logarithms). It needs at "
            "least three seeds. For the best of several settings its upper end is further out, because the best of "
            "several looks better than it is.",
        ),
        (
            "times as fast, at least",
            "Ratio of two strategies, seed by seed. The faster one is named only if it certainly beats every setting "
            "of the other (95 %); at least is the lower end of that. The same within 5 %: the 90 % interval lies "
            "inside.",
        ),
        (
            "expected",
            "Time to the target if every failed run is repeated with another seed: all time spent, divided by the "
            "number of runs that reached the target.",
        ),
        ("median curve", "Median over seeds. It ends where the shortest run ends."),
        ("training loss", "Mean over the steps since the previous evaluation."),
        (
            "overfitted, underfitted",
            "Overfitted: the validation loss has risen by a tenth from its minimum while the training loss kept "
            "falling. Underfitted: the training loss is still above half of its initial value.",
        ),
    ),
    "Throughput and scaling": (
        ("throughput", "Samples per second of the whole job on the training clock, after warm-up."),
        (
            "speed-up",
            "Throughput divided by that of the named base. The base is single with the same global batch (strong "
            "scaling) or with the same batch per rank (weak scaling), otherwise the same strategy on the fewest "
            "devices. Base and point always ran on the same engine.",
        ),
        (
            "serial share",
            "Share of the work that more devices do not speed up, from a fit of Amdahl's law to the line. One divided "
            "by it is the largest possible speed-up.",
        ),
        ("efficiency", "Speed-up divided by the increase in devices, in percent."),
        (
            "steps against batch",
            "Updates to the target at the best learning rate of each global batch. Perfect: twice the batch needs half "
            "the updates. Maximal: a larger batch saves none. Between them, returns diminish. At the critical batch, "
            "reaching the target takes twice the samples that training could do with.",
        ),
        (
            "noise scale",
            "Global batch at which the noise of a step's gradient is as large as the gradient: the variance of one "
            "sample's gradient divided by the squared length of the true gradient, before clipping, momentum and "
            "weight decay. Well below it, twice the batch needs half the steps; well above it, a larger batch saves "
            "hardly any. It is known where a server averages gradients that were computed separately. Each estimate "
            "covers a window of updates, with a 95 % interval (Fieller) from how they differ. A gap is a window whose "
            "gradient is not distinguishable from noise. The value over the whole run weights updates with large "
            "gradients more.",
        ),
        ("broken line", "Prediction plus and minus two standard deviations of its own uncertainty."),
    ),
    "Where the time went": (
        (
            "parts of a step",
            "Mean over devices, without overlap: computing, exposed communication (transfers that nothing hides), "
            "waiting (for a slower worker, a server or a stage), input, and the rest of the loop. For asynchronous "
            "workers: seconds between two updates of the weights. The cell with the median step time is shown.",
        ),
        (
            "how step times spread",
            "Time between the starts of two consecutive steps of the first worker, after warm-up, in the first run of "
            "each point. Outliers lie more than three interquartile ranges above the upper quartile.",
        ),
        ("who waits for whom", "A few steps from the middle of a run, all strategies on one clock."),
        (
            "bubble",
            "Share of a step in which a pipeline stage is idle. The theory assumes equal stages and no transfer time.",
        ),
        ("staleness", "Updates of the weights between reading them for a gradient and applying that gradient."),
    ),
    "Devices over time": (
        (
            "CPU cores busy",
            "CPU time per device that the system counted for the cell's processes between two readings. A process that "
            "polls while it waits counts as busy.",
        ),
        (
            "GPU utilisation as NVML reports it",
            "Share of the driver's last sampling period in which at least one kernel ran. It does not say how much of "
            "the GPU the kernel used, nor whether it computed.",
        ),
        (
            "SMs busy, tensor cores busy, DRAM bandwidth",
            "What the GPU's own counters (GPM, on H100 and later) say: how many multiprocessors had work, how often "
            "tensor cores computed, how much of the memory's speed was used.",
        ),
        (
            "what held the clocks back",
            "The reasons that the driver gives for clocks below the highest: a power limit, heat, a setting, or that "
            "the GPU was idle.",
        ),
        (
            "energy",
            "What the GPU's own counter says, and the integral of its power samples. The two differ where power "
            "changes faster than it is sampled.",
        ),
        (
            "share of time spent computing",
            "Computing time divided by training time in a window of several steps, mean over devices. Within a step, "
            "computing is spread evenly.",
        ),
        ("which run", "The run with the median result of each strategy at its best learning rate and batch."),
    ),
    "Memory": (
        (
            "counted DRAM",
            "Bytes of all tensors on the fullest device at their peak, counted one by one: parameters, gradients, "
            "optimizer, activations, buffers and copies. Memory that an allocator only reserves is not included.",
        ),
        ("context", "Memory that the driver keeps for itself on a GPU. It holds no tensors."),
        (
            "allocated, reserved",
            "Bytes that the CUDA allocator has handed out, and bytes that it has taken from the device, each at its "
            "peak. Simulated: its rules are replayed over the tensors of a step.",
        ),
        ("NVML", "What the driver counts on the device: this cell's processes if it can separate them, otherwise all."),
        ("capacity", "Usable memory of a device: its size minus what the system keeps, or the scenario's limit."),
    ),
    "Predicted and measured": (
        ("predicted", "Median over simulated seeds. The band is two standard deviations of its stated uncertainty."),
        (
            "measured",
            "Median over real seeds, with a line from minimum to maximum; or what the scenario says was observed.",
        ),
    ),
}
"""By the heading under which the figures stand: terms with their meaning."""
