"""Long runs on demand: `scripts/soak NAME`. Each module is one, with a `main` that says how long it takes."""
