"""What all benchmarks share: the clock, facts about the machine, made-up images."""
