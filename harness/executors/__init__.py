"""Where cells run: in this process, on all cores of this machine, or on machines that somebody else manages."""
