from denoised_smoothing.attacks.pgd import PGD as PGD, attack as attack
from denoised_smoothing.certificates.certificate import (
    Certificate as Certificate,
    SamplingPlan as SamplingPlan,
)
from denoised_smoothing.certificates.counts import LabelCounts as LabelCounts, Stage as Stage
from denoised_smoothing.certificates.identity import Identity as Identity
from denoised_smoothing.certificates.family import together as together
from denoised_smoothing.certificates.groups import (
    Groups as Groups,
    finest_group as finest_group,
    group_certificates as group_certificates,
)
from denoised_smoothing.certificates.parameters import Noise as Noise
from denoised_smoothing.certificates.plans import (
    Anytime as Anytime,
    FixedBudget as FixedBudget,
    RadiusTarget as RadiusTarget,
)
from denoised_smoothing.certificates.population import population_bound as population_bound
from denoised_smoothing.certificates.prediction import Prediction as Prediction
from denoised_smoothing.certificates.verdicts import Finding as Finding, Verdict as Verdict
from denoised_smoothing.certificates.prediction_sets import PredictionSet as PredictionSet
from denoised_smoothing.certificates.sets import set_certificates as set_certificates
from denoised_smoothing.certificates.top_k import top_k_certificates as top_k_certificates
from denoised_smoothing.datasets import ImageDataset as ImageDataset, load_dataset as load_dataset
from denoised_smoothing.errors import (
    AlteredCertificateError as AlteredCertificateError,
    AnswerMissingError as AnswerMissingError,
    BudgetReachedError as BudgetReachedError,
    CertificateError as CertificateError,
    ClassifierError as ClassifierError,
    ContractError as ContractError,
    CountsError as CountsError,
    DatasetError as DatasetError,
    DenoisedSmoothingError as DenoisedSmoothingError,
    ImageError as ImageError,
    InputError as InputError,
    MalformedCertificateError as MalformedCertificateError,
    MemoryLackError as MemoryLackError,
    MissingExtraError as MissingExtraError,
    ModelChangedError as ModelChangedError,
    RefusedImagesError as RefusedImagesError,
    RemoteError as RemoteError,
    RunBusyError as RunBusyError,
    RunMismatchError as RunMismatchError,
    RunNotFoundError as RunNotFoundError,
    SchemaTooNewError as SchemaTooNewError,
    SettingError as SettingError,
    SpecError as SpecError,
    StoreError as StoreError,
    StoreUnreachableError as StoreUnreachableError,
    TrainingError as TrainingError,
    TrainingInterruptedError as TrainingInterruptedError,
    WeightsError as WeightsError,
    WorkerError as WorkerError,
)
from denoised_smoothing.images import load_image as load_image
from denoised_smoothing.models.catalogue import (
    load_classifier as load_classifier,
    load_denoiser as load_denoiser,
)
from denoised_smoothing.models.classifiers.base import ImageClassifier as ImageClassifier
from denoised_smoothing.models.label_groups import read_groups as read_groups
from denoised_smoothing.models.specs import Source as Source, Spec as Spec
from denoised_smoothing.reporting.further_claims import Questions as Questions
from denoised_smoothing.reporting.html import write_report as write_report
from denoised_smoothing.reporting.pairs import compare_runs as compare_runs
from denoised_smoothing.reporting.results import (
    hold_together as hold_together,
    load_results as load_results,
)
from denoised_smoothing.runs.prediction_sets import PredictionSets as PredictionSets
from denoised_smoothing.runs.run import CertificationRun as CertificationRun
from denoised_smoothing.runs.shards import merge as merge
from denoised_smoothing.runs.verify import verify as verify
from denoised_smoothing.smoothing import SmoothedClassifier as SmoothedClassifier
from denoised_smoothing.store import Store as Store
from denoised_smoothing.training.config import TrainingConfig as TrainingConfig
from denoised_smoothing.training.data import Preparation as Preparation
from denoised_smoothing.training.fit import (
    TrainingJob as TrainingJob,
    train_denoiser as train_denoiser,
)
