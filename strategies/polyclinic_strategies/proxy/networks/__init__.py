"""Networks of the deformation proxy: the generator of velocities and the network that tells people apart."""
