# The service. On a CPU by default; for an NVIDIA GPU:
#   docker build --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
# PIP_INDEX_URL and PIP_EXTRA_INDEX_URL name your own indexes, such as one of CPU wheels of torch.

ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
ARG EXTRAS=digits,hf,onnxruntime,openvino,parquet,photos,postgresql,timm,torchvision,web
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/denoised-smoothing
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN /opt/denoised-smoothing/bin/pip install \
    --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 smoothing \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin smoothing \
    && install --directory --owner=smoothing --group=smoothing --mode=0750 /data
COPY --from=build /opt/denoised-smoothing /opt/denoised-smoothing
# All that is written goes to /data and /tmp, so that the root may be read-only.
ENV PATH=/opt/denoised-smoothing/bin:$PATH \
    HOME=/data \
    XDG_CACHE_HOME=/data/cache \
    HF_HOME=/data/cache/huggingface \
    TORCH_HOME=/data/cache/torch \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["denoised-smoothing"]
CMD ["serve", "--host", "0.0.0.0", "--store", "/data/runs.sqlite"]
