"""The client of a segmentation service: warp, send, unwarp."""
