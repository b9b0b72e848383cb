"""Which fields of a model's config are mathematics: those that change what it computes."""

from typing import Any

# What a base's config says beside the mathematics of its forward pass. Everything else counts, so
# that a field nobody has heard of makes two bases different rather than the same.
_NOT_MATHEMATICAL = frozenset(
    {
        "_attn_implementation",
        "_commit_hash",
        "_name_or_path",
        "attention_dropout",
        "attn_pdrop",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dropout",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "finetuning_task",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)
# The same of an adapter's config: whence it came, and how it was initialised and trained.
_NOT_MATHEMATICAL_OF_ADAPTER = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "init_ia3_weights",
        "init_lora_weights",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "revision",
        "task_type",
        "tokenizer_kwargs",
        "tokenizer_name_or_path",
    }
)
# Fields that mean something only beside another one, which is empty where they mean nothing.
_ONLY_WITH = {"qalora_group_size": "use_qalora"}
# Lists of names whose order means nothing.
_SETS = (
    "exclude_modules",
    "feedforward_modules",
    "modules_to_save",
    "places",
    "target_modules",
    "target_parameters",
)


def base_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The mathematical part of a base's `config.json`."""
    config = _with_one_rope(config)
    return {name: value for name, value in config.items() if name not in _NOT_MATHEMATICAL}


def adapter_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The mathematical part of an `adapter_config.json`.

    An empty field counts like one that an older library did not write.
    """
    fields = {
        name: value
        for name, value in config.items()
        if value
        and name not in _NOT_MATHEMATICAL_OF_ADAPTER
        and config.get(_ONLY_WITH.get(name, name))
    }
    for name in _SETS:
        if isinstance(fields.get(name), list):
            fields[name] = sorted(fields[name])
    return fields


def _with_one_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Older configs spread over two fields what newer ones say in `rope_parameters`."""
    if "rope_theta" not in config or "rope_parameters" in config:
        return config
    config = dict(config)
    scaling = dict(config.pop("rope_scaling", None) or {"rope_type": "default"})
    if "type" in scaling:
        scaling.setdefault("rope_type", scaling.pop("type"))
    return config | {"rope_parameters": scaling | {"rope_theta": config.pop("rope_theta")}}
