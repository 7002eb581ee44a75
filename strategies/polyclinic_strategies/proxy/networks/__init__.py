"""Networks of the deformation proxy: a generator of velocities, and one that recognizes people."""
