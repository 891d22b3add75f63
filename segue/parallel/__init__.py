"""Several processes that compute one model: which part each has, and how their parts add up."""
