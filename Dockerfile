# One file for every image: docker build --build-arg SERVICE=checkout --build-arg FOLDER=services/checkout .
FROM python:3.13-slim AS build
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
COPY requirements-runtime.lock ./
RUN pip install --no-cache-dir uv==0.13.8 \
    && uv venv /app/.venv \
    && uv pip install --python /app/.venv --require-hashes --requirement requirements-runtime.lock
COPY pyproject.toml ./
COPY libs libs
ARG FOLDER
COPY ${FOLDER} ${FOLDER}
# Editable: the code stays in its folder, beside its migrations and templates.
RUN uv pip install --python /app/.venv --no-deps \
    --editable libs/billing_common --editable libs/turnpike_ui --editable libs/embedded_servers --editable "${FOLDER}"

FROM python:3.13-slim
ARG SERVICE
ARG FOLDER
COPY --from=build /app /app
WORKDIR /app
# An empty volume takes over owner and mode of the folder it is mounted on.
RUN install -d -o 65532 -g 65532 -m 0700 /data/stripe /data/apim /secrets
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SERVICE=${SERVICE}
USER 65532:65532
ENTRYPOINT ["/bin/sh", "-c", "exec python -m \"$SERVICE\" \"$@\"", "--"]
