"""The paper's tables as data, and what trains, measures, keeps and shows their rows."""
