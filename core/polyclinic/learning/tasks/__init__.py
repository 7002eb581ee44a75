"""What a network's output means, one object for each kind of task.

`task` says what such an object can do, and `registry` finds it. `voxels` are segmentations,
`images` are tasks of whole images: classes, findings, and numbers. Names, losses and the score's
name are in `polyclinic.config.tasks`.
"""
