"""Ground floor: pure torch and numpy; no Flower, no gRPC, no processes."""
