#!/bin/sh
# polyclinic-coordinator NAME [SETTING=VALUE]...
# The run NAME from wherever it is: begun, taken up again after its last round or contribution, or shown once it is finished.
# So a container that is killed and started again goes on by itself.
set -eu
name=${1:?polyclinic-coordinator NAME [SETTING=VALUE]...}
shift
folder=/coordinator/runs/$name
if [ -e "$folder/run.json" ]; then
    if grep -q '"state": "finished"' "$folder/run.json"; then
        exec polyclinic-server report "$name"
    fi
    exec polyclinic-server run --resume "$name"
fi
if [ -d "$folder" ]; then # killed before anything began
    rm -f "$folder/overrides.json" "$folder/config.yaml"
    rmdir "$folder"
fi
exec polyclinic-server run --name "$name" "$@"
