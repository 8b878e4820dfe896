"""Thirty architectures of transformers, tiny and from their configurations, as a user would name them in a scenario.

Each `build_...` is what `model = "hf.py:build_..."` names, each function at the end what `dataset` names. Dropout is 0
where losses are compared. Class names stand in imports, since transformers imports lazily.
"""

import numpy as np
import torch
import transformers as tf
from torch import nn

CLASSES, VOCABULARY, LENGTH, SIZE = 4, 64, 12, 32


def small(**more):
    """Return what most configurations of text models share."""
    return dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, num_attention_heads=4) | more


def no_dropout(config):
    """Set every dropout of a configuration to 0."""
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and "drop" in name:
            setattr(config, name, 0.0)
    return config


def text(model, config, **more):
    config = no_dropout(config(**more))
    config.num_labels, config.pad_token_id, config.use_cache = CLASSES, 0, False
    return model(config)


def bert_like(model, config, **more):
    return text(model, config, **small(intermediate_size=64, max_position_embeddings=40) | more)


def build_bert():
    return bert_like(tf.BertForSequenceClassification, tf.BertConfig)


def build_electra():
    return bert_like(tf.ElectraForSequenceClassification, tf.ElectraConfig, embedding_size=32)


def build_roberta():
    return bert_like(tf.RobertaForMaskedLM, tf.RobertaConfig)


def build_albert():
    return bert_like(tf.AlbertForSequenceClassification, tf.AlbertConfig, embedding_size=16)


def build_deberta_v2():
    return bert_like(tf.DebertaV2ForSequenceClassification, tf.DebertaV2Config)


def build_distilbert():
    shape = dict(vocab_size=VOCABULARY, dim=32, n_layers=4, n_heads=4, hidden_dim=64, max_position_embeddings=40)
    return text(tf.DistilBertForSequenceClassification, tf.DistilBertConfig, **shape)


def build_gpt2():
    shape = dict(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=40)
    return text(tf.GPT2LMHeadModel, tf.GPT2Config, **shape)


def build_gpt_neo():
    shape = dict(hidden_size=32, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]])
    shape |= dict(vocab_size=VOCABULARY, max_position_embeddings=40, window_size=8)
    return text(tf.GPTNeoForCausalLM, tf.GPTNeoConfig, **shape)


def llama_like(model, config, **more):
    return text(model, config, **small(intermediate_size=64, num_key_value_heads=2, max_position_embeddings=40) | more)


def build_llama():
    return llama_like(tf.LlamaForCausalLM, tf.LlamaConfig)


def build_mistral():
    return llama_like(tf.MistralForCausalLM, tf.MistralConfig, sliding_window=8)


def build_qwen2():
    return llama_like(tf.Qwen2ForCausalLM, tf.Qwen2Config, tie_word_embeddings=True)


def build_mixtral():
    model = llama_like(tf.MixtralForCausalLM, tf.MixtralConfig, num_local_experts=4, num_experts_per_tok=2)
    model.config._experts_implementation = "batched_mm"  # the usual kernel takes no fp64
    return model


def build_gemma():
    return llama_like(tf.GemmaForCausalLM, tf.GemmaConfig, head_dim=8)


def build_phi():
    return llama_like(tf.PhiForCausalLM, tf.PhiConfig)


def build_gpt_neox():
    return text(tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, **small(intermediate_size=64, max_position_embeddings=40))


def build_opt():
    shape = small(ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=40)
    return text(tf.OPTForCausalLM, tf.OPTConfig, **shape)


def build_bloom():
    return text(tf.BloomForCausalLM, tf.BloomConfig, vocab_size=VOCABULARY, hidden_size=32, n_layer=4, n_head=4)


def build_mamba():
    shape = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, state_size=8)
    return text(tf.MambaForCausalLM, tf.MambaConfig, **shape)


def build_t5():
    shape = dict(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return text(tf.T5ForConditionalGeneration, tf.T5Config, **shape)


def build_bart():
    shape = dict(vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4)
    shape |= dict(decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=40)
    return text(tf.BartForConditionalGeneration, tf.BartConfig, **shape)


def image(model, config, **more):
    config = no_dropout(config(**more))
    config.num_labels = CLASSES
    return model(config)


VIT = dict(image_size=SIZE, patch_size=8, hidden_size=32, num_hidden_layers=4, num_attention_heads=4)


def build_vit():
    return image(tf.ViTForImageClassification, tf.ViTConfig, intermediate_size=64, **VIT)


def build_deit():
    return image(tf.DeiTForImageClassification, tf.DeiTConfig, intermediate_size=64, **VIT)


def build_dinov2():
    return image(tf.Dinov2ForImageClassification, tf.Dinov2Config, mlp_ratio=2, **VIT)


def build_swin():
    shape = dict(image_size=SIZE, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return image(tf.SwinForImageClassification, tf.SwinConfig, drop_path_rate=0.0, **shape)


def build_convnext():
    shape = dict(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2, drop_path_rate=0.0)
    return image(tf.ConvNextForImageClassification, tf.ConvNextConfig, **shape)


def build_resnet():
    shape = dict(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")
    return image(tf.ResNetForImageClassification, tf.ResNetConfig, **shape)


def build_segformer():
    shape = dict(depths=[1, 1, 1, 1], hidden_sizes=[16, 16, 32, 32], num_attention_heads=[1, 2, 2, 4])
    shape |= dict(decoder_hidden_size=16, drop_path_rate=0.0)
    return image(tf.SegformerForSemanticSegmentation, tf.SegformerConfig, **shape)


class Clip(nn.Module):
    """Says which text belongs to a picture: CLIP's own logits compare the samples of a batch with each other."""

    def __init__(self):
        super().__init__()
        text_config = small(intermediate_size=64, max_position_embeddings=40)
        vision_config = VIT | dict(intermediate_size=64)
        self.clip = tf.CLIPModel(tf.CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=16))
        self.head = nn.Linear(32, CLASSES)

    def forward(self, input_ids, pixel_values):
        found = self.clip(input_ids=input_ids, pixel_values=pixel_values)
        return self.head(torch.cat([found.text_embeds, found.image_embeds], dim=1) * self.clip.logit_scale)


def build_clip():
    return Clip()


def build_whisper():
    shape = dict(vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4)
    shape |= dict(decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=8)
    shape |= dict(max_source_positions=10, max_target_positions=40)
    config = no_dropout(tf.WhisperConfig(**shape))
    config.pad_token_id = config.bos_token_id = config.eos_token_id = config.decoder_start_token_id = 0
    return tf.WhisperForConditionalGeneration(config)


def build_wav2vec2():
    shape = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
    shape |= dict(conv_dim=[16, 16], conv_stride=[5, 2], conv_kernel=[10, 3], num_feat_extract_layers=2)
    shape |= dict(num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0, layerdrop=0.0)
    return image(tf.Wav2Vec2ForSequenceClassification, tf.Wav2Vec2Config, **shape)


def splits(make, train=80, test=16):
    """Return four values from one function of (generator, number of samples): 72 are trained on, in batches of 8."""
    random = np.random.default_rng(0)
    return (*make(random, train), *make(random, test))


def labels():
    """Return tokens with a mask, and a class for each sample."""

    def make(random, number):
        ids = random.integers(1, VOCABULARY, (number, LENGTH))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}, ids[:, 0] % CLASSES

    return splits(make)


def language():
    """Return tokens, and for each the token after it."""

    def make(random, number):
        ids = np.cumsum(random.integers(1, 3, (number, LENGTH + 1)), axis=1) % VOCABULARY
        return ids[:, :-1], ids[:, 1:]

    return splits(make)


def translation():
    """Return source and target tokens, and the target moved by one, its padding left out of the loss."""

    def make(random, number):
        ids = random.integers(2, VOCABULARY, (number, LENGTH))
        decoder = np.roll(ids, 1, axis=1)
        targets = np.where(np.arange(LENGTH) < random.integers(4, LENGTH, (number, 1)), ids, -100)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "decoder_input_ids": decoder}, targets

    return splits(make)


def pictures():
    """Return pictures and a class for each."""

    def make(random, number):
        targets = np.arange(number) % CLASSES
        return random.normal(size=(number, 3, SIZE, SIZE)) + targets[:, None, None, None], targets

    return splits(make)


def pixels():
    """Return pictures and a class for each of their blocks of 4 x 4 pixels, as Segformer answers."""

    def make(random, number):
        targets = random.integers(0, CLASSES, (number, SIZE // 4, SIZE // 4))
        bright = targets.repeat(4, axis=1).repeat(4, axis=2)[:, None]
        return random.normal(size=(number, 3, SIZE, SIZE)) + bright, targets

    return splits(make)


def captions():
    """Return pictures with a text, and a class for each pair."""

    def make(random, number):
        ids = random.integers(1, VOCABULARY, (number, LENGTH))
        pixels = random.normal(size=(number, 3, SIZE, SIZE))
        return {"input_ids": ids, "pixel_values": pixels}, ids[:, 0] % CLASSES

    return splits(make)


def spectra():
    """Return spectra of 8 bands over 20 moments with decoder tokens, and the token after each."""

    def make(random, number):
        ids = random.integers(1, VOCABULARY, (number, LENGTH + 1))
        features = random.normal(size=(number, 8, 20))
        return {"input_features": features, "decoder_input_ids": ids[:, :-1]}, ids[:, 1:]

    return splits(make)


def sound():
    """Return waves of 400 samples, and a class for each."""

    def make(random, number):
        targets = np.arange(number) % CLASSES
        return {"input_values": random.normal(size=(number, 400)) * (1 + targets[:, None])}, targets

    return splits(make)
