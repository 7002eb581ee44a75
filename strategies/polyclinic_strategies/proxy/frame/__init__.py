"""The canonical frame: reference brain, registration, intensities, and the way back."""
