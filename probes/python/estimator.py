"""The probe of one cell as scikit-learn's estimators are: for cross-validation, grid search and pipelines."""
