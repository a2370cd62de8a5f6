"""Everything around the model in numpy: schedules, noise, states, conditioning, guidance and samplers."""
