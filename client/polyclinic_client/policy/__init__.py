"""The hospital's own say: its policy, what runs ask for, and what a person decided about them."""
