"""Pictures as a server is sent them: what training sees of them, so that the server has nothing left to resize."""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from data_utils.images import ImagePipeline
from models.families.base import Family, Grid

KEPT = 64  # the same picture is asked about again within a step, and in the next epoch at the earliest


class ServedPictures:
    """Data URLs of pictures; may be asked from several threads.

    Args:
        folder: of the images.
        pipeline: of training.
        family: of the base.
    """

    def __init__(self, folder: str | Path | None, pipeline: ImagePipeline, family: Family):
        self._folder, self._pipeline, self._family = folder or "", pipeline, family
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    def url(self, name: str, grid: Grid) -> str:
        """A picture as PNG, which keeps every pixel. Raises ValueError as `ImagePipeline` does.

        Args:
            name: within the folder.
            grid: how training cuts it up.
        """
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        picture = self._pipeline.opened(self._folder, name)
        file = io.BytesIO()
        self._family.served_picture(self._pipeline.processor, picture, grid).save(
            file, "PNG", compress_level=1
        )
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        with self._lock:
            self._kept[name] = url
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return url
