"""What both ends of the wire between coordinator and hospital need."""
