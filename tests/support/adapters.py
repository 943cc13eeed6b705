"An adapter that changes what a model says, for tests of what opens it."

import torch
from peft import get_peft_model

from arte.align import lora
from arte.models.load import load_model


def save_adapter(base, out, std, r=16):
    "Save a LoRA adapter of random matrices on every linear layer; a larger `std` changes more."
    torch.manual_seed(0)
    model = get_peft_model(load_model(base), lora(r))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=std)
    model.save_pretrained(out)
    return out
