# docker build --tag vqvae-ad-search .
FROM python:3.11-slim

# Where torch comes from, if not from pip's usual index, whose torch for Linux holds CUDA and takes several GiB:
# PyTorch's index for CPUs, for example.
ARG TORCH_INDEX=

# KubeRay's probes call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/vqvae-ad-search
COPY . .
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.lock)" \
    && pip install --no-cache-dir --constraint requirements.lock --editable '.[analysis,postgres,mlflow,wandb]'

# Any user may run it (docker run --user): the token of Ray and the cache of features lie in a home open to all.
ENV HOME=/home/search USER=search PYTHONUNBUFFERED=1
RUN mkdir --mode=1777 /home/search /work
USER 1000:1000
WORKDIR /work
CMD ["python", "-m", "search.run", "--help"]
