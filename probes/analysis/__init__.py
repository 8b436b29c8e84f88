"""Pure functions of scores and maps. They neither fit nor draw."""
