# The page of docs/serve.md with an exported network (not run: written without Docker at hand;
# checked with hadolint). From the repository's folder:
#   docker build -f launch/serve.Dockerfile -t jaxcovid-serve .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop=ALL --security-opt=no-new-privileges \
#     --memory=8g -p 127.0.0.1:8000:8000 -v "$PWD/exported:/model:ro" \
#     -e JAXCOVID_TOKEN="$(openssl rand -hex 16)" jaxcovid-serve
# Open http://127.0.0.1:8000/#token=TOKEN with that token; the address in the log has the name of the
# container. To serve others add -p 8000:8000, and --certificate and --key behind jaxcovid-serve.
FROM python:3.11-slim
WORKDIR /app
COPY requirements.txt pyproject.toml README.md ./
COPY configs configs
COPY jaxcovid jaxcovid
# requirements.txt and pyproject.toml have the exact versions. The code belongs to root: whoever runs
# it cannot change it.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[serve,openvino]" && useradd --uid 1000 jaxcovid
USER 1000:1000
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s CMD ["python", "-c", "import ssl, urllib.request as r\ntry: r.urlopen('http://127.0.0.1:8000/health')\nexcept OSError: r.urlopen('https://127.0.0.1:8000/health', context=ssl._create_unverified_context())"]
ENTRYPOINT ["python", "-m", "jaxcovid.serve", "--model=/model", "--engine=openvino", "--host=0.0.0.0"]
