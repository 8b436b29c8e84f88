"""Why a fit has, or has not, reached its optimum."""

# In the order in which they are looked for; `LogisticFit.reason` holds their numbers.
REASONS = (
    "converged",
    "no valid row",
    "one class only",
    "constant features",
    "max_iter reached",
    "beyond float64",
    "beyond float32",
)
CONVERGED, NO_ROW, ONE_CLASS, CONSTANT, MAX_ITER, BEYOND_FLOAT64, BEYOND_FLOAT32 = range(7)
