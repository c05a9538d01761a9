"""From feature maps to their normal version: lookups, fusion, refinement."""
