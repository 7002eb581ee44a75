"""What a hospital tells about its images, and how far two hospitals are from each other; one statistic in each file."""
