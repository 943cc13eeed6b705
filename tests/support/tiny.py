"""A recipe and a model small enough for tests, built in code."""

from arte.core.settings.recipe import Recipe
from arte.core.settings.method import Student, Teacher


def tiny_recipe(**changes):
    "A valid recipe on two generated tasks; `changes` replace whole fields: align={'lr': 1e-5}."
    settings = dict(
        name="tiny",
        tasks=("boolean_expressions", "object_counting"),
        teacher=Teacher("nano-teacher", chat="off"),
        student=Student("nano-student", chat="off"),
        data=dict(items="generated", test="generated", n_val=6, n_test=4),
        elicit=dict(
            questions=4,
            techniques=2,
            budget=4,
            question_tokens=64,
            rationale_tokens=32,
            min_finished=0,
            min_readable=0,
        ),
        irt=dict(method="map", k=3, shots=(0, 1)),
        prefer=dict(max_tokens=16, agreement_questions=0),
        pairs=dict(question_pairs=2),
        align=dict(lr=1e-4, batch=2, max_length=256, held_out=1),
        tailor=dict(budget=4),
        distill=dict(lr=1e-4, batch=2, max_length=256),
        eval=dict(max_tokens=16),
    )
    return Recipe(**settings | changes)


TASKS = ["boolean_expressions", "object_counting"]
SMALL = {
    "tasks": TASKS,
    "teacher.school": None,
    "data.test": "generated",
    "data.n_test": 12,
    "data.n_val": 12,
    "irt.k": 6,
    "irt.method": "map",
    "irt.choose": "discrimination",
    "irt.shots": [0, 1],
    "elicit.questions": 8,
    "elicit.min_finished": 0,
    "elicit.min_readable": 0,
    "align.held_out": 3,
    "prefer.agreement_questions": 2,
    "prefer.need_signal": False,
    "controls.examples": 0,
    "student.school": None,
    "distill.arms": ["original", "rationale", "question", "arte"],
    "pairs.question_pairs": 2,
    "align.epochs": 1,
    "distill.epochs": 1,
    "align.max_length": 1200,  # a prompt for questions has up to 1,000 of the tiny tokens
    "distill.max_length": 400,
    "eval.shots": [0, 3],
}
