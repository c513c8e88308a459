# Images of sds3d for CPUs (the default) and for NVIDIA GPUs.
#
#   docker build -t sds3d .
#   docker run --rm -v sds3d-runs:/home/sds3d/runs sds3d generate "a red mug"
#
# NVIDIA GPUs; the host needs NVIDIA's container toolkit:
#   docker build --build-arg VARIANT=cuda -t sds3d:cuda .
#   docker run --rm --gpus all -v sds3d-runs:/home/sds3d/runs sds3d:cuda generate "a red mug"
#
# The studio, at http://localhost:7860, with a password:
#   docker run --init --rm -p 7860:7860 -e SDS3D_AUTH -v sds3d-runs:/home/sds3d/runs sds3d app --host 0.0.0.0
# Without a command the image starts it too; the password then comes from the environment: -e SDS3D_AUTH=USER:PASSWORD
#
# Runs are stored in the volume. A folder of the host in its place must be writable by user 10001.
# On x86-64 the default torch is built for CUDA and takes gigabytes. For a small CPU image, give the address of
# PyTorch's index of CPU builds (docs/start.md has it): docker build --build-arg TORCH_INDEX=ADDRESS -t sds3d .

ARG VARIANT=cpu

FROM python:3.11-slim-bookworm AS cpu-base
ENV EXTRAS=usd
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# sds3d doctor --build compiles gsplat's kernels: nvcc, a C++ compiler and Python's headers stay in the image.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS cuda-base
ENV EXTRAS=cuda,usd
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgomp1 python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM ${VARIANT}-base AS build
ARG TORCH_INDEX=""
RUN python3 -m venv /opt/sds3d
COPY . /src
RUN /opt/sds3d/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "/src[$EXTRAS]"

# hadolint ignore=DL3006
FROM ${VARIANT}-base
COPY --from=build /opt/sds3d /opt/sds3d
ENV PATH=/opt/sds3d/bin:$PATH
RUN useradd --create-home --uid 10001 sds3d
USER 10001
WORKDIR /home/sds3d
RUN mkdir runs
VOLUME /home/sds3d/runs
EXPOSE 7860
ENTRYPOINT ["sds3d"]
CMD ["app", "--host", "0.0.0.0"]
