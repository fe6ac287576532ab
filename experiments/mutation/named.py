"""The mutations that once survived, by name, each with the test that kills it.

    python experiments/mutation/named.py                 runs them all, writes NAMED.md; exit code 1 if one survives
    python experiments/mutation/named.py betas pool      those whose description has one of these words; writes nothing

Each is a text put in the place of another, which must stand exactly once in the file, in a copy of the tree.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mutate import HERE, SLOW, TOP, copy_tree, pytest_in

GUARDS = "training/test_guards.py::test_"
REFUSED = f"{GUARDS}rows_are_not_updated_alone_where_a_step_moves_or_needs_all"
BETA = "training/test_losses.py::test_gbce_s_beta"
COUNTED = f"{GUARDS}every_step_of_the_data_weighs_the_same_in_whatever_batch"
YAML = "test_build.py::test_a_default_is_the_same_on_the_command_line_and_in_python[training-TrainingSettings]"


class Named(NamedTuple):
    what: str
    file: str
    old: str
    new: str
    test: str


STUDY, TRAINER = "src/sairlib/run/study.py", "src/sairlib/training/trainer.py"
ROWS, GBCE, CONF = (
    "src/sairlib/training/optimisers.py",
    "src/sairlib/training/gbce.py",
    "conf/training/default.yaml",
)
OBJECTIVES = "src/sairlib/training/objectives.py"
ALL = [
    Named(
        "best weights not loaded before the test",
        STUDY,
        'load_weights(self.model, best, trainer.identity, directory / "best.pt")',
        "pass",
        "contracts/test_command.py::test_the_best_weights_are_tested_not_the_last",
    ),
    Named("steps_per_batch dropped", OBJECTIVES, ".sum() / self.steps_per_batch", ".sum()", COUNTED),
    Named(
        "a batch divided by its own steps",
        OBJECTIVES,
        ".sum() / self.steps_per_batch",
        ".sum() / (targets_XS != PAD).sum()",
        COUNTED,
    ),
    Named(
        "another batch size in build", "src/sairlib/build.py", '"batch_size": batch_size}', '"batch_size": 1}', COUNTED
    ),
    Named(
        "no after_step()",
        "src/sairlib/training/step.py",
        "model.after_step()",
        "pass",
        f"{GUARDS}points_limited_to_a_ball_are_in_it_after_every_step",
    ),
    Named(
        "no prepare()",
        TRAINER,
        "model.prepare(store.counts_M)",
        "pass",
        f"{GUARDS}popularity_is_counted_before_anything_is_ranked",
    ),
    Named("tables by rows: compile allowed", ROWS, "settings.compile or ", "", f"{REFUSED}[compile]"),
    Named("tables by rows: weight_decay allowed", ROWS, "settings.weight_decay or ", "", f"{REFUSED}[weight_decay]"),
    Named("tables by rows: grad_clip allowed", ROWS, " or settings.grad_clip:", ":", f"{REFUSED}[grad_clip]"),
    Named(
        "tables by rows: adagrad allowed",
        ROWS,
        'if settings.optimizer == "adagrad" or not',
        "if not",
        f"{REFUSED}[optimizer]",
    ),
    Named(
        "tables by rows: any betas allowed",
        ROWS,
        ' == "adagrad" or not follows(settings.betas):',
        ' == "adagrad":',
        f"{REFUSED}[betas]",
    ),
    Named(
        "tables by rows: those read whole too",
        ROWS,
        "isinstance(module, Table) and not module.whole",
        "isinstance(module, Table)",
        "contracts/test_rows.py::test_tables_marked_whole_are_updated_by_adam",
    ),
    Named(
        "tables by rows: small ones too",
        ROWS,
        "if len(table.weight) > RARELY * rows_per_batch and",
        "if",
        f"{GUARDS}rows_are_updated_alone_in_large_tables_only",
    ),
    Named(
        "tables by rows: on every device",
        ROWS,
        ' and table.weight.device.type == "cpu"',
        "",
        f"{GUARDS}rows_are_updated_alone_on_cpu_only",
    ),
    Named(
        "tables by rows: under a loss over all items",
        OBJECTIVES,
        "return math.inf",
        "return 0.0",
        f"{GUARDS}rows_are_not_updated_alone_under_a_loss_over_all_items",
    ),
    Named(
        "RowAdam: any betas taken",
        ROWS,
        "if not follows(betas):",
        "if False:",
        "training/test_optimisers.py::test_betas_under_which_updates_of_a_row_do_not_shrink_are_refused",
    ),
    Named(
        "RowAdam: rows written in evaluation",
        ROWS,
        "if torch.is_grad_enabled():",
        "if True:",
        f"{GUARDS}a_lookup_without_gradients_writes_nothing",
    ),
    Named(
        "RowAdam: writes though nothing is behind",
        ROWS,
        "if not len(behind):",
        "if False:",
        f"{GUARDS}rows_that_are_up_to_date_are_not_written_again",
    ),
    Named(
        "RowAdam: rows that are up to date taken for behind",
        ROWS,
        'ids[state["seen_at"][ids] < group["steps"]]',
        "ids",
        f"{GUARDS}rows_that_are_up_to_date_are_not_written_again",
    ),
    Named(
        "RowAdam: no guard for a step without a lookup",
        ROWS,
        "if weight.grad is None:",
        "if False:",
        f"{GUARDS}a_step_without_a_lookup_still_moves_rows_looked_up_before",
    ),
    Named(
        "no catching up after an epoch",
        TRAINER,
        "self.catch_up()",
        "pass",
        f"{GUARDS}all_rows_are_up_to_date_when_an_epoch_is_over",
    ),
    Named(
        "restored settings win over the configured",
        "src/sairlib/training/state.py",
        "ready.append(dict(own))",
        "ready.append(dict(group))",
        f"{GUARDS}settings_given_on_resuming_win_over_the_stored_ones",
    ),
    Named(
        "restored betas win, in tables by rows",
        "src/sairlib/training/state.py",
        "ready.append(dict(own))",
        "ready.append(dict(group))",
        f"{GUARDS}given_betas_win_in_tables_by_rows_too",
    ),
    Named(
        "a save inside an epoch forgets the order of its batches",
        TRAINER,
        "generator.clone_state().set_state(self.epoch.start)",
        "generator.clone_state()",
        "training/test_resume.py::test_a_training_that_is_stopped_inside_an_epoch_ends_like_one_that_is_not",
    ),
    Named(
        "processes do not exchange rows",
        "src/sairlib/training/step.py",
        "self.partners.exchange_rows()",
        "pass",
        "training/test_partners.py::test_several_processes_train_as_one_does",
    ),
    Named(
        "evaluator.rank in train mode",
        "src/sairlib/evaluation/evaluator.py",
        "        model.eval()\n",
        "",
        "evaluation/test_evaluator.py::test_ranks_are_those_without_dropout_and_the_model_stays_in_its_mode",
    ),
    Named(
        "diagnosis without eval()",
        TRAINER,
        "        self.model.eval()\n        history =",
        "        history =",
        f"{GUARDS}a_model_is_diagnosed_as_it_ranks_without_dropout",
    ),
    *(
        Named(
            f"SAIR's pool starts with deviation {std}",
            "src/sairlib/models/sair.py",
            "std=d**-0.5",
            f"std={std}",
            "models/test_sair.py::test_the_pool_starts_as_vectors_of_length_1",
        )
        for std in ("1.0", "0.02", "d**-1")
    ),
    Named(
        "gBCE: beta from the first negative",
        GBCE,
        "beta = self.beta(scores.shape[-1] - 1)",
        "beta = self.beta(int((self.n_items - 1) * log_expected[..., 0].exp().flatten()[0]) or 1)",
        "training/test_losses.py::test_the_order_of_the_negatives_changes_no_cost_and_neither_does_who_drew_them",
    ),
    Named(
        "gBCE: the positive counted as a negative",
        GBCE,
        "beta = self.beta(scores.shape[-1] - 1)",
        "beta = self.beta(scores.shape[-1])",
        "training/test_losses.py::test_equals_loops",
    ),
    Named(
        "gBCE: a share of all items, not of all others",
        GBCE,
        "n_negatives / (self.n_items - 1)",
        "n_negatives / self.n_items",
        BETA,
    ),
    Named(
        "gBCE: the last column taken for the positive",
        GBCE,
        "return beta * softplus(-scores[..., 0])",
        "return beta * softplus(-scores[..., -1])",
        "training/test_losses.py::test_gbce_with_t_0_is_bce",
    ),
    Named(
        "train_lengths left out of the split's hash",
        "src/sairlib/data/split.py",
        'digest.update(self.train_lengths.astype("<i8").tobytes())',
        "pass",
        "data/test_split.py::test_hash_changes_with_what_each_user_trains_on",
    ),
    *(
        Named(f"{CONF}: {new}", CONF, old, new, YAML)
        for old, new in (
            ("patience: 20", "patience: 10"),
            ("lr: 0.001", "lr: 0.002"),
            ("betas: [0.9, 0.98]", "betas: [0.9, 0.999]"),
        )
    ),
]


def outcome(tree: Path, mutant: Named) -> str:
    file = tree / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        return f"not one place: {text.count(mutant.old)}"
    before = pytest_in(tree, [f"tests/{mutant.test}"], 600, False)
    file.write_text(text.replace(mutant.old, mutant.new))
    after = pytest_in(tree, [f"tests/{mutant.test}"], 600, False)
    file.write_text(text)
    if before != "passed":
        return "the test fails on the code as it is"
    return "survived" if after == "passed" else after


def main() -> None:
    words = sys.argv[1:]
    os.environ.setdefault("SAIRLIB_TEST_DATA", str(TOP.parent / "shared" / "data"))
    sys.dont_write_bytecode = True  # it would be taken for a file's if size and second are the same
    for name in SLOW:
        importlib.import_module(name)
    rows, alive = [], 0
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        for mutant in ALL:
            if words and not any(word in mutant.what for word in words):
                continue
            found = outcome(Path(folder), mutant)
            alive += found != "killed"
            rows.append(f"| {mutant.what} | `{mutant.file.removeprefix('src/sairlib/')}` | {found} | `{mutant.test}` |")
            print(rows[-1], flush=True)
    if not words:
        commit = subprocess.check_output(["git", "rev-parse", "--short=10", "HEAD"], cwd=TOP, text=True).strip()
        head = ["# The mutations that once survived", "", f"Generated by `named.py`, commit {commit}.", ""]
        table = ["| mutation | file | outcome | the test that must fail |", "|---|---|---|---|", *rows]
        (HERE / "NAMED.md").write_text("\n".join([*head, *table]) + "\n")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
