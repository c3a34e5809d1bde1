"""The commented study file that `proxytune init` writes."""

from proxytune.tuning.spec.protocol import with_protocol
from proxytune.tuning.spec.schema import SHIPPED_SCHEMA

_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# Check it with `proxytune check {file}`, run it with `proxytune run {file}`.
name: {name} # of the study, its folder and its runs in MLflow

task:
  name: {task}
  root: null # folder or archive with the data; null: generated, where the task has a generator

model: # fixed values; other keys have their defaults
  attention: proxyformer # softmax, nystromformer, linformer, performer, reformer, bigbird
  num_layers: 2
  embedding_dim: 64
  feedforward_dim: 128
  num_heads: 2

training: # the task's protocol
  steps: {steps}
  warmup_steps: {warmup_steps}
  batch_size: {batch_size}
  learning_rate: {learning_rate}
  eval_every: {eval_every} # steps between evaluations

search:
  space: # any key of model or training
    model.num_proxies: {{low: 8, high: 128, log: true}} # whole numbers, evenly spaced in the logarithm
    model.contrastive_temperature: {{low: 0.02, high: 1.0, log: true}}
    model.dropout: {{low: 0.0, high: 0.3}}
    # model.injection: [segment, carried] # a list is a choice
  objectives: {{val_accuracy: maximize}} # for a Pareto search add a second one, such as train_memory_mib_per_sequence: minimize
  # constraints: {{train_memory_mib_per_sequence: "<= 40"}}
  sampler: curve # for several objectives tpe or nsga2; random, grid, qmc, gp, cmaes; {{name: curve, seed: 1}} sets its seed
  stopping: curve # for several objectives asha; none, hyperband, median; {{name: curve, min_steps: {eval_every}, reduction_factor: 3}}
  trials: 24
  enqueue: # configurations to try first
    - {{model.num_proxies: 128, model.contrastive_temperature: 0.07, model.dropout: 0.1}}

resources: {{cpu: 1, gpu: auto}} # per trial; as many trials run at once as fit
storage: ./studies # the folder of all studies
"""


def study_template(task: str, name: str, file: str) -> str:
    """A study file for a task, with the task's protocol and a search over Proxyformer's settings."""
    return _TEMPLATE.format(schema=SHIPPED_SCHEMA, task=task, name=name, file=file, **with_protocol(task, {}))
