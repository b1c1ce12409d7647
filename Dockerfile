# The page on http://localhost:7860:
#   docker build -t boneage . && docker run --rm -p 127.0.0.1:7860:7860 boneage
FROM python:3.11-slim

RUN useradd --create-home user
WORKDIR /home/user/boneage
COPY requirements.txt .
# CPU builds of torch are a tenth of the size; for a GPU image leave the first of the two installs out.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        torch==2.12.1+cpu torchvision==0.27.1+cpu \
    && pip install --no-cache-dir -r requirements.txt
COPY app.py ./
COPY boneage ./boneage
COPY weights ./weights
COPY data ./data
COPY results ./results
COPY LICENSE NOTICE ./
USER user
EXPOSE 7860
# Inside the container the page must listen on all addresses; `docker run -p` decides who reaches it.
CMD ["python", "app.py", "--host", "0.0.0.0"]
