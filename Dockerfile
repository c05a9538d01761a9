# GRAD in a container.
#
#   docker build -t grad .                                   CPU
#   docker build -t grad:cuda --build-arg KIND=cuda .        CUDA, run with --gpus all
#   docker run -v "$PWD:/data" grad train --data photos --out runs/photos
#   docker run -v "$PWD:/data" -p 8000:8000 grad serve runs/photos --host 0.0.0.0
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG KIND=cpu
ARG TORCH_CUDA_ARCH_LIST=
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/grad
ENV PATH=/opt/grad/bin:$PATH PIP_NO_CACHE_DIR=1
# The torch of PyPI has CUDA on Linux; its own index has one without, a tenth as large.
RUN case "$KIND" in \
      cpu) pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) pip install torch torchvision ;; \
      *) echo "KIND=$KIND: give cpu or cuda" >&2; exit 1 ;; \
    esac
COPY . /sources
RUN if [ "$KIND" = cuda ]; then export GRAD_CUDA=1; else export GRAD_CUDA=0; fi \
    && if [ -z "$TORCH_CUDA_ARCH_LIST" ]; then unset TORCH_CUDA_ARCH_LIST; fi \
    && pip install "/sources[serve,export]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/grad /opt/grad
RUN useradd --create-home grad
USER grad
ENV PATH=/opt/grad/bin:$PATH
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["grad"]
CMD ["--help"]
