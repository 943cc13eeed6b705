"""A recipe and a model small enough for tests, built in code."""

from arte.core.settings.recipe import Recipe
from arte.core.settings.method import Student, Teacher


def tiny_recipe(**changes):
    "A valid recipe on two generated tasks; `changes` replace whole fields: align={'lr': 1e-5}."
    settings = dict(
        name="tiny",
        tasks=("boolean_expressions", "object_counting"),
        teacher=Teacher("nano-teacher"),
        student=Student("nano-student"),
        data=dict(items="generated", test="generated", n_val=6, n_test=4),
        elicit=dict(questions=4, techniques=2, budget=4, question_tokens=64, rationale_tokens=32),
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
    "irt.shots": [0, 1],
    "elicit.questions": 8,
    "align.held_out": 3,
    "prefer.agreement_questions": 2,
    "pairs.question_pairs": 2,
    "align.epochs": 1,
    "distill.epochs": 1,
    "align.max_length": 400,
    "distill.max_length": 400,
}


SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
TEXT = (
    "Task Description: Question: Answer: Let's think step by step. "
    "So the answer is <ans>True</ans> False"
)


def tiny_tokenizer():
    "A byte-level tokenizer of 400 tokens."
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    words.train_from_iterator([TEXT] * 4, trainer)
    roles = ("unk_token", "bos_token", "eos_token", "pad_token")
    return PreTrainedTokenizerFast(tokenizer_object=words, **dict(zip(roles, SPECIAL)))


def save_tiny_model(folder):
    "Write a random Llama of two layers and its tokenizer to a folder."
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
