//! The table of rules. A rule's page is `pages/CODE.md`; a rule without one does not compile.

use super::Severity;

/// What a rule's findings are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One resource, on which the rule can be waived.
    Resource,
    /// The stack as a whole; the rule cannot be waived.
    Stack,
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its code.
    pub code: &'static str,
    /// How bad a finding is.
    pub severity: Severity,
    /// What it finds.
    pub finds: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
    /// What its findings are about.
    pub subject: Subject,
    /// The text of its page, see [`Page`](super::Page).
    pub(super) text: &'static str,
}

macro_rules! rules {
    ($($name:ident $code:literal $severity:ident $subject:ident $finds:literal => $remedy:literal;)*) => {
        $(pub(super) const $name: Rule = Rule {
            code: $code,
            severity: Severity::$severity,
            finds: $finds,
            remedy: $remedy,
            subject: Subject::$subject,
            text: include_str!(concat!("pages/", $code, ".md")),
        };)*

        /// All rules, by code.
        pub const RULES: &[Rule] = &[$($name),*];
    };
}

// 1xx schemas, 2xx limits, 3xx references, 40x-41x the first policies, 42x IAM, 43x-44x Kafka, 45x alarms,
// 46x-47x functions and their sources, 48x databases, 49x-50x data, 51x clusters and networks.
rules! {
    UNKNOWN_TYPE "FG100" Warning Resource "a resource type without a schema" => "turn on the service's feature of cfn-resources, so that the type can be checked";
    UNKNOWN_PROPERTY "FG101" Error Resource "a property that the type does not have" => "remove it or correct its name";
    MISSING_PROPERTY "FG102" Error Resource "a required property that is missing" => "set it";
    WRONG_TYPE "FG103" Error Resource "a value of the wrong type" => "give a value of the type that the schema wants";
    PATTERN "FG104" Error Resource "a text that does not match its pattern" => "correct the text";
    LENGTH "FG105" Error Resource "a text, list or map that is too short or too long" => "keep to the bounds";
    RANGE "FG106" Error Resource "a number out of its bounds" => "keep to the bounds";
    ENUMERATION "FG107" Error Resource "a value that is none of those listed" => "take one that is listed";
    READ_ONLY "FG108" Error Resource "a property that only the service sets" => "remove it; read it as an attribute";
    COMBINATION "FG109" Error Resource "properties that exclude or require one another" => "set those that go together";
    NUMBER_AS_TEXT "FG110" Warning Resource "a number or flag that is given as text" => "give it as a number or a flag";
    ARN_FOR_NAME "FG111" Error Resource "an ARN where a name belongs" => "give the name: a handle's `reference()`, or the attribute that is the name";
    NAME_FOR_ARN "FG112" Error Resource "a name where an ARN belongs" => "give the ARN: a handle's `arn()`";
    REGION "FG113" Error Resource "a resource type that the region does not have" => "take another region, or do without the type there";
    TAG "FG114" Error Resource "a tag that AWS refuses" => "give each key once, 1 to 128 characters that do not begin with aws:";
    RESOURCE_LIMIT "FG201" Error Stack "more than 500 resources in a stack" => "split the stack";
    RESOURCE_LIMIT_NEAR "FG202" Warning Stack "more than 400 of 500 resources in a stack" => "plan to split the stack";
    NAME_LIMIT "FG203" Error Stack "more than 200 outputs or parameters in a stack" => "split the stack";
    BODY_LIMIT "FG204" Error Stack "a template of more than 51,200 bytes" => "split the stack";
    DESCRIPTION_LIMIT "FG205" Error Stack "a description of more than 1,024 bytes" => "shorten it";
    MAPPING_LIMIT "FG206" Error Stack "more than 200 mappings, or 200 attributes in one" => "split the mapping";
    LOGICAL_ID "FG207" Error Stack "a logical id or name that CloudFormation refuses" => "name it with at most 255 letters and digits";
    PARAMETER_DEFAULT "FG208" Error Stack "a parameter's default of more than 4,096 bytes" => "keep the value elsewhere and pass its place";
    STACK_NAME "FG209" Error Stack "a stack's name that CloudFormation refuses" => "begin it with a letter, and keep to 128 letters, digits and hyphens";
    POLICY_SIZE "FG210" Error Resource "a policy that is longer than IAM takes" => "name resources together, or split the policy";
    UNRESOLVED "FG301" Error Resource "a reference to something that the template does not have" => "refer to a handle of the stack";
    CIRCULAR "FG302" Error Stack "resources that wait for each other" => "take one of the references apart into a resource of its own";
    NO_ATTRIBUTE "FG303" Error Resource "an attribute that the type does not have" => "use one that it has";
    CIRCULAR_GROUPS "FG304" Error Resource "security groups that name each other in their own rules" => "make the rules resources of their own: SecurityGroupIngress and SecurityGroupEgress";
    UNUSED_PARAMETER "FG305" Warning Stack "a parameter that nothing uses" => "remove it";
    EXPORT "FG306" Warning Stack "an output that is exported" => "use the handle in the other stack: it becomes an output and a parameter";
    DUPLICATE_NAME "FG307" Error Resource "two resources that are one and the same" => "give one of them another name, or none: CloudFormation then makes one";
    STALE_WAIVER "FG308" Warning Resource "a waiver that excuses nothing" => "remove the waiver";
    WILDCARD_ACTION "FG401" Error Resource "a policy that allows every action of a service" => "name the actions";
    WILDCARD_RESOURCE "FG402" Error Resource "a policy that allows its actions on every resource" => "name the resources";
    KAFKA_COMPANION "FG403" Error Resource "an MSK action without the actions that it needs, or on the wrong kind of resource" => "use the grants of KafkaTopic";
    POD_TRUST "FG404" Error Resource "a role for pods without sts:TagSession" => "trust pods.eks.amazonaws.com with sts:AssumeRole and sts:TagSession";
    LOG_RETENTION "FG405" Error Resource "a log group that keeps its events for ever" => "set RetentionInDays";
    KAFKA_TRANSIT "FG406" Error Resource "a Kafka cluster that takes connections without TLS or without authentication" => "set ClientBroker to TLS, InCluster to true, and allow no unauthenticated client";
    KAFKA_AT_REST "FG407" Error Resource "a Kafka cluster without a key of its own" => "set EncryptionAtRest";
    KAFKA_BROKERS "FG408" Error Resource "a number of brokers that is no multiple of the subnets" => "take a multiple";
    KAFKA_REPLICAS "FG409" Error Resource "more replicas in sync than there are replicas" => "lower min.insync.replicas or raise the replication factor";
    AUTO_MODE "FG410" Error Resource "EKS Auto Mode switched on in part" => "switch compute, load balancing and block storage together, and self-managed add-ons off";
    OPEN_INGRESS "FG411" Error Resource "a security group open to every address" => "name the blocks or groups that need it";
    DATA_DELETION "FG412" Error Resource "kept data that would go with its stack" => "retain or snapshot it, or make the environment's data disposable";
    BROAD_MANAGED_POLICY "FG420" Error Resource "a managed policy that allows nearly everything" => "name the actions in a policy of your own";
    NEGATED_POLICY "FG421" Error Resource "a policy that allows everything but what it names" => "name what is allowed";
    OPEN_PRINCIPAL "FG422" Error Resource "a policy that allows something to every account" => "name the principals, or add a condition";
    PASS_ROLE "FG423" Error Resource "iam:PassRole to any service" => "add the condition iam:PassedToService";
    LONG_LIVED_KEY "FG424" Error Resource "an access key" => "use a role";
    LITERAL_SECRET "FG425" Error Resource "a secret in plain text" => "keep it in Secrets Manager and refer to it: ManageMasterUserPassword or {{resolve:secretsmanager:...}}";
    DATABASE_USER "FG426" Error Resource "rds-db:connect on something that is no database user" => "allow it on arn:PARTITION:rds-db:REGION:ACCOUNT:dbuser:RESOURCE-ID/USER; a proxy's id begins with prx-";
    KAFKA_ACTION "FG427" Error Resource "an action that MSK does not have" => "correct its name: IAM takes any, and grants nothing by it";
    PRINCIPAL "FG428" Error Resource "a service principal that is none" => "take the service's name, ending in .amazonaws.com";
    POLICY_GRAMMAR "FG429" Error Resource "a policy that IAM cannot read" => "write it as the grammar of IAM's policies has it";
    KAFKA_VERSION_ENDED "FG430" Error Resource "a Kafka version past its end of support" => "take a version that is supported, such as 3.9.x.kraft";
    KAFKA_ZOOKEEPER "FG431" Warning Resource "a Kafka cluster on ZooKeeper" => "make it with a .kraft version: an existing cluster cannot be migrated in place";
    KAFKA_VERSION "FG432" Warning Resource "a Kafka version that MSK does not have" => "take one that it has; `aws kafka list-kafka-versions` lists them";
    KAFKA_BROKER_TYPE "FG433" Error Resource "a broker type that MSK does not have" => "take one that it has, such as kafka.m7g.large";
    KAFKA_PROPERTY "FG434" Error Resource "a server property that MSK does not take" => "correct its name or leave it out";
    KAFKA_ZOOKEEPER_PROPERTY "FG435" Error Resource "a ZooKeeper property where there is no ZooKeeper" => "leave it out";
    KAFKA_PORT "FG436" Error Resource "a door to a Kafka listener that is off" => "open 9098, the listener with IAM, and nothing else";
    KAFKA_TOPIC_CONFIG "FG437" Error Resource "a topic's configuration that Kafka does not know" => "correct the key, or encode the properties as base64";
    KAFKA_VALUE "FG438" Error Resource "a Kafka property with a value that it cannot have" => "give it a value that it can have";
    KAFKA_MINIMUM "FG439" Warning Resource "as many replicas in sync as there are replicas" => "leave one replica of room: 3 replicas with 2 in sync";
    KAFKA_DURABILITY "FG440" Error Resource "Kafka properties with which acknowledged records are lost" => "set min.insync.replicas to 2 and unclean.leader.election.enable to false";
    KAFKA_EXPRESS "FG441" Error Resource "Express brokers with what they do not have" => "leave StorageInfo out, and use three zones and Kafka 3.6 or later";
    KAFKA_CONNECTIONS "FG442" Warning Resource "kafka.t3.small with IAM clients" => "take a larger broker, or connect seldom and reconnect slowly";
    KAFKA_TRANSACTIONS "FG443" Error Resource "transactions on a cluster that cannot end them" => "take Kafka 3.8 or later";
    KAFKA_BROKER_LOGS "FG444" Warning Resource "a Kafka cluster whose brokers do not log" => "send BrokerLogs to a log group";
    KAFKA_SUBNETS "FG445" Error Resource "a Kafka cluster in one subnet" => "give it two or three, each in another zone";
    KAFKA_SERVERLESS "FG446" Error Resource "a topic that is too large for MSK Serverless" => "take at most 120 partitions";
    KAFKA_PUBLIC "FG447" Error Resource "Kafka brokers with public addresses" => "leave PublicAccess disabled, and connect through the VPC";
    ALARM_ACTION "FG450" Error Resource "an alarm that tells nobody" => "set AlarmActions and leave ActionsEnabled on";
    ALARM_DIMENSION "FG451" Error Resource "an alarm on a dimension that its namespace does not have" => "correct the name: a metric without data never fires";
    ALARM_METRIC "FG452" Error Resource "an alarm on a metric whose name is misspelt" => "correct the name: a metric without data never fires";
    ALARM_MISSING_DATA "FG453" Warning Resource "an alarm that does not say what silence means" => "set TreatMissingData: breaching, notBreaching, ignore or missing";
    ALARM_LAG_GROUP "FG454" Error Resource "a lag alarm on a group that MSK measures no lag of" => "name the group in ASCII without a colon";
    ALARM_LAG_SILENCE "FG455" Warning Resource "a lag alarm that takes silence for good" => "treat missing data as breaching, or alarm on the consumer's own lag beside it";
    ALARM_PERIOD "FG456" Error Resource "an alarm whose periods CloudWatch refuses" => "take a multiple of 60 s, no more data points than periods, and at most a day";
    ALARM_TOPIC_KEY "FG457" Error Resource "an alarm that tells a topic it may not write to" => "encrypt the topic with a key of yours whose policy names cloudwatch.amazonaws.com";
    ALARM_LEVEL "FG458" Error Resource "an alarm on what the Kafka cluster is not told to measure" => "raise EnhancedMonitoring, or alarm on a metric of its level";
    SOURCE_PERMISSIONS "FG460" Error Resource "a function that may not read its own event source" => "grant its role the actions";
    SOURCE_DESTINATION "FG461" Error Resource "an event source whose failed records are forgotten" => "set DestinationConfig.OnFailure";
    SOURCE_BISECT "FG462" Error Resource "a stream whose failed batches are neither split nor reported in part" => "set BisectBatchOnFunctionError, or report ReportBatchItemFailures";
    SOURCE_ENDLESS "FG463" Error Resource "a stream that retries for ever" => "set MaximumRecordAgeInSeconds or MaximumRetryAttempts";
    SOURCE_CONCURRENCY "FG464" Error Resource "fewer reserved executions than pollers" => "reserve as many as there are pollers, or poll with fewer";
    SOURCE_NETWORK "FG465" Error Resource "a Kafka event source whose poller reaches neither the brokers nor Lambda" => "let the cluster's security group in from itself at 9098 and out to itself and 443, and give its subnets a NAT gateway or endpoints of lambda and sts";
    SOURCE_VISIBILITY "FG466" Error Resource "a queue that shows a message again while it is worked on" => "set VisibilityTimeout to six times the function's timeout";
    SOURCE_BATCH "FG467" Error Resource "a batch size that the queue cannot give" => "set MaximumBatchingWindowInSeconds to 1 at least, and take at most 10 from a FIFO queue";
    SOURCE_QUEUE "FG468" Error Resource "a queue without dead letters as an event source" => "set RedrivePolicy";
    SOURCE_INCOMPLETE "FG469" Error Resource "an event source mapping without what its source wants" => "set StartingPosition, and one topic for Kafka";
    LOST_EVENT "FG470" Error Resource "a function whose asynchronous events are dropped when it fails" => "set an on-failure destination or a dead-letter queue";
    TARGET_DEAD_LETTER "FG471" Error Resource "a rule's target or a subscription that drops what it cannot deliver" => "give it a dead-letter queue";
    FUNCTION_LOGS "FG472" Error Resource "a function without a log group of the stack" => "declare the log group with a retention, and name it in LoggingConfig";
    FUNCTION_RUNTIME "FG473" Error Resource "a function's runtime past its end" => "take a runtime that has time left, such as provided.al2023";
    INVOKE_SOURCE "FG474" Error Resource "a permission by which any account may call a function through a service" => "set SourceArn or SourceAccount";
    SCHEDULE "FG475" Error Resource "a schedule that EventBridge refuses" => "write rate(1 minute), rate(5 minutes) or cron with six fields and one `?`";
    TARGET_CLOSED "FG476" Error Resource "a target that does not let its caller in" => "add a QueuePolicy, a TopicPolicy or a Lambda Permission for the service";
    PROXY_TLS "FG480" Error Resource "a database proxy that takes connections without TLS" => "set RequireTLS";
    PROXY_IDLE "FG481" Warning Resource "a database proxy whose idle timeout nobody chose" => "set IdleClientTimeout, longer than the clients' own";
    PROXY_AUTO_PAUSE "FG482" Error Resource "a database that pauses behind a proxy" => "set MinCapacity to 0.5 or more";
    PROXY_FILTER "FG483" Error Resource "a filter of MySQL's on a proxy for PostgreSQL" => "remove it; avoid SET and named prepared statements instead";
    AURORA_ENCRYPTION "FG484" Error Resource "a database that is not encrypted at rest" => "set StorageEncrypted and KmsKeyId";
    AURORA_BACKUP "FG485" Error Resource "a database of kept data with few days of backups" => "set BackupRetentionPeriod to 7 or more";
    AURORA_INSTANCE "FG486" Error Resource "an Aurora cluster without an instance" => "add an AWS::RDS::DBInstance, of class db.serverless for Serverless v2";
    SERVERLESS_CLASS "FG487" Error Resource "an instance's class that does not go with its cluster's scaling" => "use db.serverless and ServerlessV2ScalingConfiguration together";
    SERVERLESS_CAPACITY "FG488" Error Resource "a capacity that Serverless v2 does not have" => "take steps of 0.5, the smallest no more than the largest";
    PUBLIC_DATABASE "FG489" Error Resource "a database with a public address" => "set PubliclyAccessible to false";
    AURORA_SUBNETS "FG490" Error Resource "a database or proxy in fewer than two subnets" => "give two subnets in different zones";
    CACHE_TLS "FG491" Error Resource "a MemoryDB cluster without TLS" => "leave TLSEnabled on; TLS cannot be switched on later";
    CACHE_OPEN "FG492" Error Resource "a MemoryDB cluster that everybody in reach may use" => "make an access list with users";
    TABLE_RECOVERY "FG493" Error Resource "a table of kept data that cannot be put back to a point in time" => "set PointInTimeRecoveryEnabled";
    TABLE_ENCRYPTION "FG494" Warning Resource "a table whose key nobody chose" => "set SSESpecification";
    STREAM_ENCRYPTION "FG495" Error Resource "a stream that is not encrypted at rest" => "set StreamEncryption";
    QUEUE_ENCRYPTION "FG496" Error Resource "a queue that is not encrypted at rest" => "set SqsManagedSseEnabled or KmsMasterKeyId";
    TOPIC_ENCRYPTION "FG497" Error Resource "an SNS topic that is not encrypted at rest" => "set KmsMasterKeyId, a key of yours where CloudWatch publishes";
    BUCKET_PUBLIC "FG498" Error Resource "a bucket that could become public" => "set all four of PublicAccessBlockConfiguration";
    BUCKET_ENCRYPTION "FG499" Warning Resource "a bucket whose encryption nobody chose" => "set BucketEncryption";
    BUCKET_TLS "FG500" Error Resource "a bucket that answers without TLS" => "deny requests whose aws:SecureTransport is false in a BucketPolicy";
    KEY_ROTATION "FG501" Error Resource "a key whose material is never renewed" => "set EnableKeyRotation";
    STREAM_MODE "FG502" Error Resource "a stream on demand with a number of shards" => "leave ShardCount out, or provision the stream";
    TABLE_KEYS "FG503" Error Resource "a table whose keys, attributes and throughput do not fit together" => "define the attributes of all keys and no others, and give throughput where it is provisioned";
    DATABASE_ENGINE "FG504" Error Resource "a database engine, version or class that RDS does not have" => "correct the name: `aws rds describe-orderable-db-instance-options` lists them";
    PUBLIC_ENDPOINT "FG510" Error Resource "a Kubernetes endpoint open to every address" => "set EndpointPublicAccess to false, or name PublicAccessCidrs";
    AUTO_MODE_ROLE "FG511" Error Resource "a role without what EKS Auto Mode needs" => "attach the policies, and trust with sts:TagSession";
    POD_ROLE "FG512" Error Resource "a pod identity with a role that does not trust pods" => "trust pods.eks.amazonaws.com with sts:AssumeRole and sts:TagSession";
    CLUSTER_VERSION "FG513" Warning Resource "a Kubernetes version past its standard support" => "take one that is supported";
    CLUSTER_LOGS "FG514" Warning Resource "a Kubernetes cluster without an audit log" => "enable the log types, audit among them";
    CLUSTER_SECRETS "FG515" Warning Resource "a Kubernetes cluster whose secrets have no key of yours" => "set EncryptionConfig";
    CLUSTER_SUBNETS "FG516" Error Resource "a Kubernetes cluster in fewer than two subnets" => "give two subnets in different zones";
    PUBLIC_SUBNET "FG517" Warning Resource "a subnet that gives out public addresses" => "set MapPublicIpOnLaunch to false";
    WIDE_INGRESS "FG518" Error Resource "a block that may reach every port" => "name the ports";
    MUTABLE_TAGS "FG519" Warning Resource "a repository whose tags can be moved" => "set ImageTagMutability to IMMUTABLE";
    SUBNET_BLOCK "FG520" Error Resource "a subnet that overlaps another or leaves its VPC" => "give each a block of its own within the VPC's";
    ADDRESS_BLOCK "FG521" Error Resource "a text that is no block of addresses" => "write it as 10.0.0.0/16";
    PORTS "FG522" Error Resource "a security group's rule whose ports do not go with its protocol" => "give FromPort and ToPort of 0 to 65535 for tcp and udp, and both -1 for every ICMP type";
}
