"""Finite MDPs as arrays: the TabularMDP record, its files, and small MDPs with names."""

from pgjax.exact.tabular.mdp import TabularMDP as TabularMDP
from pgjax.exact.tabular.mdp import load as load
from pgjax.exact.tabular.mdp import save as save
from pgjax.exact.tabular.named import NAMED as NAMED
from pgjax.exact.tabular.named import NamedMDP as NamedMDP
from pgjax.exact.tabular.named import chain as chain
from pgjax.exact.tabular.named import gridworld as gridworld
from pgjax.exact.tabular.named import random_mdp as random_mdp
from pgjax.exact.tabular.named import short_corridor as short_corridor
from pgjax.exact.tabular.named import two_armed_bandit as two_armed_bandit
