"""The distillation loss: terms on outputs and features, their weights, and schedules."""
