# A hospital's image: docker build -f docker/client.Dockerfile -t polyclinic-client .
#   --build-arg TORCH=cuda        torch with CUDA; without it the CPU build, from one of these:
#   --build-arg TORCH_INDEX=URL   the index of torch's CPU builds, or of those for another CUDA:
#                                 torch's install page names it
#   --build-arg WHEELS=IMAGE      an image whose root holds *.whl, looked at before any index
#   --build-arg PIP_NO_INDEX=1    nothing but those wheels (they must be all that is needed)

# ---- shared: the same lines in both Dockerfiles, so that both images have these layers in common
ARG BASE=python:3.11-slim-bookworm
ARG WHEELS=scratch

# checkov:skip=CKV_DOCKER_7: scratch has no tag
FROM ${WHEELS} AS wheels

FROM ${BASE} AS requirements
WORKDIR /build
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py .

FROM ${BASE} AS tools
RUN python -m venv /opt/tools

FROM ${BASE} AS packages
ARG TORCH=cpu
ARG TORCH_INDEX=
ARG PIP_NO_INDEX=
WORKDIR /build
COPY --from=tools /opt/tools /opt/tools
ENV PIP_PYTHON=/opt/venv/bin/python PIP_CACHE_DIR=/tmp/pip
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt ./
# torch apart, because its index chooses between CPU and CUDA; a wheel in the folder goes first
RUN --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    if ls /tmp/wheels/torch-*.whl >/dev/null 2>&1; then \
        set -- --no-index --find-links /tmp/wheels; \
    elif [ -n "$TORCH_INDEX" ]; then set -- --index-url "$TORCH_INDEX"; \
    elif [ "$TORCH" = cuda ]; then set --; \
    else echo "torch for the CPU alone is in no default index:" \
        "give TORCH_INDEX=URL, a folder of wheels, or TORCH=cuda" >&2; exit 1; fi; \
    /opt/tools/bin/pip install --quiet --no-deps "$@" -c constraints.txt torch
COPY --from=requirements /build/shared.txt ./
WORKDIR /opt/venv/lib/python3.11/site-packages
# no installer stays behind: Flower brings uv along for something that is switched off here
RUN --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    /opt/tools/bin/pip install --quiet --find-links /tmp/wheels -c /build/constraints.txt \
        -r /build/shared.txt \
    && /opt/tools/bin/pip uninstall --quiet --yes uv setuptools \
    && rm -rf torch/test torch/include torch/share/cmake torch/lib/*.a \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find scipy sympy networkx nibabel -type d -name tests -prune -exec rm -rf {} +

FROM ${BASE} AS runtime
RUN python -m pip uninstall --quiet --yes --root-user-action=ignore pip setuptools wheel \
    && rm -rf "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip" \
        /usr/share/python-wheels \
    && groupadd --gid 10001 polyclinic \
    && useradd --uid 10001 --gid polyclinic --home-dir /tmp --no-create-home \
        --shell /usr/sbin/nologin polyclinic \
    && install -d -m 0700 -o polyclinic -g polyclinic /data /keys /state /exchange \
        /coordinator /coordinator/runs /coordinator/security
COPY --from=packages /opt/venv /opt/venv
# the root file system is read-only: what is not a volume goes to /tmp
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp XDG_CACHE_HOME=/tmp/.cache XDG_STATE_HOME=/state \
    MPLCONFIGDIR=/tmp/.matplotlib NUMBA_CACHE_DIR=/tmp/.numba

FROM ${BASE} AS source
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY core core
COPY strategies strategies
# ---- end of what is shared

# a wheel of the folders that are here: core, strategies, conf, and this side
FROM source AS wheel
ARG PIP_NO_INDEX=
COPY client client
RUN --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    python -m pip --cache-dir /tmp/pip wheel --quiet --no-deps --find-links /tmp/wheels \
        --wheel-dir /dist .

FROM runtime AS client
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,from=wheel,source=/dist,target=/tmp/dist \
    /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-index \
        --no-deps /tmp/dist/*.whl \
    && rm /opt/venv/bin/polyclinic-server
WORKDIR /state
USER 10001:10001
# a client holds the lock of its state folder as long as it lives, also while it waits for a
# coordinator that is away
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "for lock in /state/lock /state/polyclinic/*/lock; do \
[ -e $lock ] && ! flock --nonblock $lock true && exit 0; done; exit 1"]
ENTRYPOINT ["polyclinic-client"]
CMD ["--help"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="polyclinic-client" \
    org.opencontainers.image.description="A hospital of a federation: no image leaves it" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
