"""The real engine: processes per device, torch.distributed, wall clock."""
