"""What both sides' pages share: who may read and act, how a page is served, and its looks."""
