"""Networks of the universal model: encoders, a head for each task, and how a head is fitted."""
