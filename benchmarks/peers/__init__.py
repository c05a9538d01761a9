"""Other people's methods, run on the same images and judged by the same metrics as ours."""
