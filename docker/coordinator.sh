#!/bin/sh
# polyclinic-coordinator NAME [SETTING=VALUE]...
# Without settings, they are those in POLYCLINIC_RUN, apart by spaces.
# Begin the run NAME; or resume it after its last round or contribution; or show it once it is
# finished. So a container that is killed and started again goes on by itself.
set -eu
name=${1:?polyclinic-coordinator NAME [SETTING=VALUE]...}
shift
folder=/coordinator/runs/$name
if [ -e "$folder/run.json" ]; then
    if grep -Eq '"state": *"finished"' "$folder/run.json"; then
        exec polyclinic-server report "$name"
    fi
    exec polyclinic-server run --resume "$name"
fi
if [ -d "$folder" ]; then # killed before anything began
    rm -f "$folder/overrides.json" "$folder/config.yaml"
    rmdir "$folder"
fi
if [ $# -eq 0 ]; then
    set -f # brackets in settings are no patterns
    # shellcheck disable=SC2086
    set -- ${POLYCLINIC_RUN:-}
fi
exec polyclinic-server run --name "$name" "$@"
