"""Explanations on TensorBoard: pictures, and the item table in its projector."""

import io
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.summary.writer.record_writer import RecordWriter

from sairlib.batch import PAD
from sairlib.files import write_bytes, write_text
from sairlib.run.explained import item_names
from sairlib.run.finished import Run
from sairlib.run.list_files import shown

TENSORS, METADATA, CONFIG = "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"


def write_images(path: Path, pictures: Mapping[str, bytes]) -> None:
    """Write a file of TensorBoard's with PNG pictures by their tags. Its name must contain ``tfevents``.

    Not by a ``SummaryWriter``, whose files grow: this one is there as a whole, and replaces an earlier one. UserError
    if it cannot be written.
    """
    content, now = io.BytesIO(), time.time()
    records = RecordWriter(content)
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for tag, png in pictures.items():
        width, height = struct.unpack(">II", png[16:24])  # of the head of a PNG
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        records.write(Event(wall_time=now, step=0, summary=summary).SerializeToString())
    records.flush()
    write_bytes(path, content.getvalue())


def write_projector(folder: Path, run: Run, n_most: int) -> None:
    """Write the vectors that items are scored with for TensorBoard's projector, each with its id, title, categories and
    how often it occurs in the training part; of more than ``n_most`` items, the most frequent.

    UserError as in ``Run.item_vectors``, or if a file cannot be written.
    """
    data = run.split.dataset
    vectors_MD = run.item_vectors()[0].float().cpu().numpy()
    counts_M = run.store.counts_M[1:].cpu().numpy()
    rows_X = np.sort(np.argsort(-counts_M, kind="stable")[:n_most])
    lines = ["\t".join(["title", "item", "categories", "actions"])]
    of_items_XG = data.item_categories[rows_X + 1].tolist()
    for row, title, of_item_G in zip(rows_X.tolist(), item_names(data, rows_X + 1), of_items_XG, strict=True):
        categories = ", ".join(data.category_names[t - 1] for t in of_item_G if t != PAD)
        lines.append("\t".join(map(shown, (title, data.item_ids[row], categories, counts_M[row]))))
    table = io.BytesIO()
    np.savetxt(table, vectors_MD[rows_X], fmt="%.6g", delimiter="\t")
    config = ProjectorConfig()
    config.embeddings.add(tensor_name="items", tensor_path=TENSORS, metadata_path=METADATA)
    write_text(folder / METADATA, "\n".join(lines) + "\n")
    write_bytes(folder / TENSORS, table.getvalue())
    write_text(folder / CONFIG, str(config))  # last: it names the others
