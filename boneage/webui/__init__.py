"""The web page: :mod:`boneage.webui.page` builds it, one module a tab fills it."""
