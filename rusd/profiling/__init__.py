"""What --enable-pprof shows of the process: profiles, stacks and memory. Knows wire/ alone."""
