# One image for all roles: `docker build -t facestream .`, then `docker run facestream --help`. docker-compose.yml
# starts all roles.
#
# By default torch comes from the package index. On x86 that is a build with CUDA, 6 GB, which also runs without a GPU.
# For an image of 2 GB without CUDA, give the index of the CPU-only builds (pytorch.org, "Get Started") with
# --build-arg TORCH_INDEX=…, or as TORCH_INDEX in the environment of `docker compose build`.

FROM python:3.11-slim AS build

ARG TORCH_INDEX=""

RUN python -m venv /opt/facestream
ENV PATH=/opt/facestream/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

# torch is installed first, so that its layer stays when only the code changes.
COPY constraints.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt --upgrade pip setuptools && \
    pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

# Then the other dependencies, then the code.
COPY pyproject.toml README.md ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; it = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*it['dependencies'], *it['optional-dependencies']['onnx'], sep='\n')" > needed && \
    pip install -c constraints.txt -r needed
COPY . .
RUN pip install --no-build-isolation --no-deps . && facestream weights get --weights /opt/facestream/weights


FROM python:3.11-slim

# The user has the same id in every image, so that it keeps access to its files in a volume. New volumes that are
# mounted on these folders belong to it too: the data of the embedded stores, and the passwords of servers.
RUN useradd --uid 10001 --create-home --home-dir /home/facestream facestream && \
    install --directory --owner=facestream --group=facestream --mode=700 /var/lib/facestream /run/facestream

COPY --from=build /opt/facestream /opt/facestream
ENV PATH=/opt/facestream/bin:$PATH \
    FACESTREAM_DATA=/var/lib/facestream \
    FACESTREAM_WEIGHTS=/opt/facestream/weights
USER facestream
WORKDIR /var/lib/facestream
ENTRYPOINT ["facestream"]
CMD ["--help"]
