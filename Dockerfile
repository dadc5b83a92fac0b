# `translate serve` in a container, for models that are mounted at /models or lie on the Hub.
#
# On a CPU:   docker build --build-arg TORCH=cpu --tag diptych .
# On a GPU:   docker build --build-arg TORCH=cu128 --tag diptych .
# Run it:     docker run --read-only --tmpfs /tmp --publish 127.0.0.1:8000:8000 --env DIPTYCH_TOKEN \
#                 --volume ./runs:/models:ro diptych /models/monet2photo          (on a GPU also: --gpus all)
#
# There is no C compiler in it, which Triton needs: on a GPU torch's own kernels are taken, more slowly (docs/serving.md).
FROM python:3.11-slim

# Which build of torch: cpu, or cu and a version of CUDA, as https://download.pytorch.org/whl names them.
ARG TORCH=cpu

# A user that may write nowhere but in its home and in /tmp.
RUN useradd --create-home --uid 10001 diptych

# torch first: its layer stays when the package changes.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/${TORCH} torch torchvision
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY datasets datasets
COPY translate translate
RUN pip install --no-cache-dir '.[serve,formats]'

USER diptych
WORKDIR /home/diptych
ENV HF_HOME=/tmp/huggingface NO_ALBUMENTATIONS_UPDATE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["translate", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
