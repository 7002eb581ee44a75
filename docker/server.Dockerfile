# The coordinator's image: docker build -f docker/server.Dockerfile -t polyclinic-server .
# It takes torch with CUDA's libraries (some gigabytes) from the default index, or instead:
#   --build-arg TORCH_INDEX=URL   torch from the index of its CPU builds, or of those for another
#                                 CUDA: torch's install page names it
#   --build-arg WHEELS=IMAGE      from an image whose root holds *.whl, looked at before any index
#   --build-arg TORCH_SHA256=HASH what torch's wheel from either of these must be
#   --build-arg PIP_NO_INDEX=1    nothing but those wheels (they must be all that is needed)
#   --target demo                 with the demos, and the average brain of their patients

# ---- shared: the same lines in both Dockerfiles, so that both images have these layers in common
ARG BASE=python:3.11-slim-bookworm
ARG WHEELS=scratch

# checkov:skip=CKV_DOCKER_7: scratch has no tag
FROM ${WHEELS} AS wheels

FROM ${BASE} AS tools
RUN python -m venv /opt/tools

FROM ${BASE} AS packages
ARG TORCH_INDEX=
ARG TORCH_SHA256=
ARG PIP_NO_INDEX=
WORKDIR /build
COPY --from=tools /opt/tools /opt/tools
ENV PIP_PYTHON=/opt/venv/bin/python PIP_CACHE_DIR=/tmp/pip
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt docker/requirements-torch.txt ./
# torch apart, because its source chooses between CPU and CUDA; a wheel in the folder goes first.
# The default index's comes with CUDA's libraries, all by their hashes
RUN --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    grep '^torch==' constraints.txt >torch.txt; \
    if [ -n "$TORCH_SHA256" ]; then sed -i "s/$/ --hash=sha256:$TORCH_SHA256/" torch.txt; fi; \
    if ls /tmp/wheels/torch-*.whl >/dev/null 2>&1; then \
        set -- --no-index --find-links /tmp/wheels -r torch.txt; \
    elif [ -n "$TORCH_INDEX" ]; then set -- --index-url "$TORCH_INDEX" -r torch.txt; \
    else set -- --require-hashes -r requirements-torch.txt; fi; \
    /opt/tools/bin/pip install --quiet --no-deps "$@"
COPY docker/requirements-client.txt ./
WORKDIR /opt/venv/lib/python3.11/site-packages
RUN --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    /opt/tools/bin/pip install --quiet --no-deps --require-hashes --find-links /tmp/wheels \
        -r /build/requirements-client.txt \
    && rm -rf torch/test torch/include torch/share/cmake torch/lib/*.a \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find /opt/venv/bin ! -type d ! -name 'python*' ! -name tensorboard -delete \
    && find scipy sympy networkx nibabel -type d -name tests -prune -exec rm -rf {} +

FROM ${BASE} AS runtime
RUN python -m pip uninstall --quiet --yes --root-user-action=ignore pip setuptools wheel \
    && rm -rf "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip" \
        /usr/share/python-wheels \
    && groupadd --gid 10001 polyclinic \
    && useradd --uid 10001 --gid polyclinic --home-dir /tmp --no-create-home \
        --shell /usr/sbin/nologin polyclinic \
    && install -d -m 0700 -o polyclinic -g polyclinic /data /keys /state /exchange \
        /coordinator /coordinator/runs /coordinator/security /coordinator/security/segmentation
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
COPY server server
RUN --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    python -m pip --cache-dir /tmp/pip wheel --quiet --no-deps --find-links /tmp/wheels \
        --wheel-dir /dist .

FROM runtime AS coordinator
ARG PIP_NO_INDEX=
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=docker/requirements-server.txt,target=/tmp/requirements.txt \
    --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    /opt/tools/bin/pip --python /opt/venv/bin/python --cache-dir /tmp/pip install --quiet \
        --no-deps --require-hashes --find-links /tmp/wheels -r /tmp/requirements.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,from=wheel,source=/dist,target=/tmp/dist \
    /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-index \
        --no-deps /tmp/dist/*.whl \
    && rm /opt/venv/bin/polyclinic-client
COPY --chmod=0755 docker/coordinator.sh /usr/local/bin/polyclinic-coordinator
WORKDIR /coordinator
EXPOSE 9092
ENTRYPOINT ["polyclinic-server"]
CMD ["--help"]

FROM coordinator AS demo
ARG PIP_NO_INDEX=
# of nilearn only the files of the average brain are read: none of what it requires
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=docker/requirements-demo.txt,target=/tmp/requirements.txt \
    --mount=type=bind,from=wheels,target=/tmp/wheels \
    --mount=type=cache,target=/tmp/pip,sharing=locked \
    /opt/tools/bin/pip --python /opt/venv/bin/python --cache-dir /tmp/pip install --quiet \
        --no-deps --require-hashes --find-links /tmp/wheels -r /tmp/requirements.txt
COPY demos/polyclinic_demos /opt/venv/lib/python3.11/site-packages/polyclinic_demos
COPY docker/prepare.py /opt/prepare.py
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["python", "/opt/prepare.py"]

FROM coordinator AS server
USER 10001:10001
# the hospitals' port accepts connections
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${POLYCLINIC_PORT:-9092}"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="polyclinic-server" \
    org.opencontainers.image.description="The coordinator of a federation of hospitals" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
